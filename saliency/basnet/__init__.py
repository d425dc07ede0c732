"""BASNet: learned saliency (Qin et al. 2019), its training and its predictions."""

from saliency.basnet.loss import hybrid_loss
from saliency.basnet.network import BASNet, load_basnet
from saliency.basnet.predict import Predictor, predict

__all__ = ["BASNet", "Predictor", "hybrid_loss", "load_basnet", "predict"]
