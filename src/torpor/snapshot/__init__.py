"""Pages, layers, manifests: what a frozen machine is made of, on disk.

    layer       one immutable file of pages, compressed by frames of 64 KiB
    manifest    one flat map per snapshot: every page of every region to its place in a layer
    seal        encryption of what is stored of a run
    reader      pages of a snapshot, by region and number, through a shared cache of frames
    upon        pages of a snapshot beside those of another that are at hand
    seen        which pages have really changed since the last snapshot
    build       parent + pages that may have changed -> new manifest and layer; pure
    store       both kinds of file in `blobs`, written durably, verified when read
    gc          what no live snapshot reaches goes

Nothing here knows of machines, FUSE or runs. Formats: docs/formats/layer.md, manifest.md.
"""
