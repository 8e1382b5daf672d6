"""The import-linter contract `may_import`: a package imports what its row names, nothing else.

import-linter's own `forbidden` lists what is not allowed, so that each new package would have to be
added to every list; here what is not named is refused. A row may name a module
(`torpor.pager.client`) where the rest of that package is not meant. `torpor` itself, the version
and the SDK's front door, is free for all.
"""

from __future__ import annotations

from typing import cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

ROOT = "torpor"


class MayImport(Contract):
    package = fields.StringField()
    allowed = fields.ListField(subfield=fields.StringField(), required=False)
    # Parts of the package that have contracts of their own, and that the rest may not import.
    apart = fields.ListField(subfield=fields.StringField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        package, named = str(self.package), cast(list[str] | None, self.allowed)
        fine = [package, *(named or [])]
        apart = cast(list[str] | None, self.apart) or []
        inside = {
            module
            for module in (package, *graph.find_descendants(package))
            if not any(_is_in(module, each) for each in apart)
        }
        refused = sorted(
            (importer, imported)
            for importer in inside
            for imported in graph.find_modules_directly_imported_by(importer)
            if imported != ROOT
            and (
                not any(_is_in(imported, each) for each in fine)
                or any(_is_in(imported, each) for each in apart)
            )
        )
        lines = [
            f"{importer} imports {imported} (line {place['line_number']})"
            for importer, imported in refused
            for place in graph.get_import_details(importer=importer, imported=imported)
        ]
        return ContractCheck(kept=not lines, metadata={"lines": lines})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["lines"]:
            output.print_error(line)


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
