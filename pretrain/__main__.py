from dilo import pretrain

pretrain()
