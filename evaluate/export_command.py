"""`probe export`: a backbone's weights under torchvision's names."""

from pathlib import Path

import click

from evaluate.options import arch_option


@click.command("export")
@click.argument("checkpoint")
@click.argument("out", type=click.Path(path_type=Path))
@arch_option
@click.option("--overwrite", is_flag=True, help="Replace OUT where it exists.")
def export(**given):
    """Write a backbone's weights for other software.

    OUT ends in .pt, .pth or .safetensors and holds a plain state_dict with torchvision's names, as
    float32, without the classifier: model.load_state_dict(weights, strict=False) then misses the
    classifier's two tensors alone.
    """
    from evaluate import export_probe  # takes seconds to import

    export_probe.run(**given)
