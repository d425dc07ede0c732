from dilo import saliency_compute

saliency_compute()
