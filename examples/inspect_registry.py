"""Reading a registry in Python: what is in it, what was made from what, and whether it is sound.

Run it: python examples/inspect_registry.py REGISTRY
"""

from __future__ import annotations

import sys

from ftreg import Registry

with Registry(sys.argv[1]) as registry:
    for version in registry.list(limit=10):
        parents = ", ".join(f"{parent.role} {parent.digest[:11]}" for parent in version.manifest.parents)
        print(f"{version.ref:28} {version.kind:10} {version.digest[:11]}  made by {version.manifest.producer.name}")
        print(f"    from: {parents or 'nothing'}")
        for record in registry.evidence(version.ref):
            print(f"    {record.type} of {record.at}")

    newest = registry.list(kind="checkpoint", limit=1)[0]
    registry.set_alias(newest.ref, "champion")
    print(f"{newest.name}@champion is {registry.get(f'{newest.name}@champion').ref}")
    print("sound" if registry.verify().ok else "damaged")
