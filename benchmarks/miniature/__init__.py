"""The paper's ablations in miniature: any labelled folder, through the public commands."""
