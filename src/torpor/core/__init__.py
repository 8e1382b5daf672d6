"""The nouns everything else speaks of. Standard library only, no I/O, Python >= 3.9 (the guest
imports parts of it)."""
