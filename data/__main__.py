from dilo import mask_shards

mask_shards()
