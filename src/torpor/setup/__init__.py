"""What a host needs before it can run machines, and getting it: `torpor setup`.

packages   the Debian packages, each by what it brings: the one list of them
apt        installing packages
system     which host this is, and whether machines can run on such a one at all
checks     whether a host has what machines need: packages, devices, the binding of FUSE, an image
ready      bringing what is absent
__main__   packages alone, by a bare Python: what a clone needs before it has a .venv
"""
