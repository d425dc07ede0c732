"""The registry of saliency methods.

A method is one module in this folder, as `saliency.methods.protocol` describes it, and one line
below; nothing else names it.
"""

from saliency.methods.protocol import Method

METHODS: dict[str, Method] = {
    "rbd": Method("saliency.methods.rbd", "robust background detection (Zhu et al., CVPR 2014)"),
    "mc": Method("saliency.methods.mc", "absorbing Markov chain (Jiang et al., ICCV 2013)"),
    "gs": Method("saliency.methods.gs", "geodesic saliency (Wei et al., ECCV 2012)"),
    "fusion": Method(
        "saliency.methods.fusion", "RBD, MC and GS by cellular automata (Qin et al., CVPR 2015)"
    ),
    "basnet": Method(
        "saliency.methods.basnet",
        "boundary-aware network (Qin et al., CVPR 2019)",
        "saliency.methods.protocol:NetworkSettings",
    ),
    "onnx": Method(
        "saliency.methods.onnx",
        "any network in an ONNX file: U2-Net, IS-Net, BiRefNet, yours",
        "saliency.methods.protocol:ForeignSettings",
    ),
    "exported": Method(
        "saliency.methods.exported",
        "any network in an archive of torch.export.save; options as of onnx",
        "saliency.methods.protocol:ForeignSettings",
    ),
    "cam": Method(
        "saliency.methods.cam",
        "class activation map of a classifier (Zhou et al., CVPR 2016)",
        "saliency.methods.protocol:ClassifierSettings",
    ),
    "gradient": Method(
        "saliency.methods.gradient",
        "gradient of a class's score, segmented (Simonyan et al., 2013)",
        "saliency.methods.protocol:ClassifierSettings",
    ),
}
