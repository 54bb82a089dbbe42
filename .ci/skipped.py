"""Print the tests of a JUnit report that skipped for want of a peer; fail if any had another reason."""

import sys
from xml.etree import ElementTree

PEERS = ("torch", "keras", "pyarrow", "zarr", "playwright.sync_api")  # compared with, never needed
allowed = [f"could not import '{peer}'" for peer in PEERS]
ids, others = [], []
for case in ElementTree.parse(sys.argv[1]).iter("testcase"):
    skip = case.find("skipped")
    if skip is not None:
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        reason = f"{skip.get('message')} {skip.text}"
        (ids if any(words in reason for words in allowed) else others).append((name, reason))
for name, reason in others:
    print(f"{name} must not skip: {reason.strip()}", file=sys.stderr)
print(*(name for name, _ in ids))
sys.exit(bool(others) or not ids)
