"""Pure decisions: facts in, decision out, nothing done. Control acts on them."""
