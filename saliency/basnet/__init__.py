"""BASNet: learned saliency (Qin et al. 2019), its training and its predictions."""

from saliency.basnet.loss import hybrid_loss
from saliency.basnet.network import BASNet
from saliency.basnet.predict import Predictor, predict
from saliency.basnet.weights import load_basnet

__all__ = ["BASNet", "Predictor", "hybrid_loss", "load_basnet", "predict"]
