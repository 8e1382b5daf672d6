"""Pages, layers, manifests: what a frozen machine is made of, on disk.

pages      pages that are somewhere, and are read when they are needed
refs       where a stored page is, in one number
layer      one immutable file of pages, compressed by frames of 64 KiB
manifest   one flat map per snapshot: every page of every region to its place in a layer
columns    a region's pages as ranges, and ranges as bytes
build      parent + pages that may have changed → new manifest and layer; pure
gather     which stored pages to store again, so that old layers can go
seen       which pages have really changed since the last snapshot
upon       pages of a snapshot beside those of another that are at hand
baselines  what all machines have in common, and what a restore gets ahead
hot        a snapshot with other hot pages
reader     pages of a snapshot, by region and number, through a shared cache of frames
values     values too large for a log, each a file by its content
seal       encryption of what is stored of a run
hostkey    the host's key, which seals all other keys
store      layers and manifests in `blobs`, written durably, verified when read
gc         what no live snapshot reaches goes
workers    the threads that compress and decompress

Nothing here knows of machines, FUSE or runs. Formats: docs/formats/layer.md, manifest.md.
"""
