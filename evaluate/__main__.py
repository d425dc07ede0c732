from dilo import probe

probe()
