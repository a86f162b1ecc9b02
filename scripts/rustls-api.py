#!/usr/bin/env python3
"""Compares what rustls-mirror wraps with rustls' own, by rustdoc's JSON of both.

    scripts/rustls-api.py            every method, public field, variant and trait of a wrapped type is
                                     there, and rustls-mirror/api.txt says what is public
    scripts/rustls-api.py --write    writes api.txt anew
"""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORD = ROOT / "rustls-mirror" / "api.txt"
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))

# By the last part of their path; those of other modules with such a name are others.
WRAPPED = """Accepted Acceptor ClientConnection Connection ConnectionCommon ReadEarlyData Reader
    ServerConnection Stream StreamOwned WriteEarlyData Writer""".split()
# From<ConnectionCore>, which has no public name.
UNREACHABLE = {("ConnectionCommon", "impl From")}
OTHER_MODULES = {"unbuffered", "quic", "kernel", "codec", "tokio"}


def rustdoc(package, *options):
    """The JSON that rustdoc makes of a package. Its format belongs to the toolchain's version."""
    command = ["cargo", "rustdoc", "-q", "-p", package, "--lib", *options, "--"]
    command += ["-Zunstable-options", "--output-format", "json", "--cap-lints", "allow"]
    environment = os.environ | {"RUSTC_BOOTSTRAP": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    with open(TARGET / "doc" / f"{package.replace('-', '_')}.json") as file:
        return json.load(file)


def members(doc, item):
    """What is public of a struct or enum: `fn name`, `field name`, `variant name`, `impl Trait`."""
    index = doc["index"]
    (kind, inner), = item["inner"].items()
    found = set()
    if kind == "enum":
        found |= {f"variant {index[str(id)]['name']}" for id in inner["variants"]}
    else:
        fields = inner["kind"].get("plain", {}).get("fields", []) if isinstance(inner["kind"], dict) else []
        named = (index[str(id)] for id in fields if str(id) in index)
        found |= {f"field {field['name']}" for field in named if field["visibility"] == "public"}
    for id in inner["impls"]:
        one = index[str(id)]["inner"]["impl"]
        if one["is_synthetic"] or one["blanket_impl"]:
            continue
        if one["trait"]:
            found.add(f"impl {one['trait']['path'].split('::')[-1]}")
            continue
        functions = (index[str(id)] for id in one["items"])
        found |= {f"fn {each['name']}" for each in functions if each["visibility"] == "public"}
    return found


def wrapped(doc):
    """The members of each type that is wrapped."""
    found = {}
    for id, item in doc["index"].items():
        path = doc["paths"].get(id, {}).get("path", [])
        if item["crate_id"] or item["name"] not in WRAPPED or OTHER_MODULES & set(path):
            continue
        if item["inner"].keys() & {"struct", "enum"}:
            assert item["name"] not in found, f"two types are called {item['name']}"
            found[item["name"]] = members(doc, item)
    assert sorted(found) == sorted(WRAPPED), f"not found: {set(WRAPPED) - set(found)}"
    return found


def exports(doc, path):
    """The names that a module exports by itself, not by a glob."""
    module = doc["index"][str(doc["root"])]
    for name in path:
        items = (doc["index"][str(id)] for id in module["inner"]["module"]["items"])
        module = next(item for item in items if item["name"] == name)
    for id in module["inner"]["module"]["items"]:
        item = doc["index"][str(id)]
        use = item["inner"].get("use")
        if item["visibility"] != "public":
            continue
        if use and use["is_glob"]:
            yield f"{use['source']}::*"
        else:
            yield use["name"] if use else item["name"]


def main():
    theirs, mine = rustdoc("rustls"), rustdoc("rustls-mirror", "--features", "tokio")
    original, mirrored = wrapped(theirs), wrapped(mine)
    missing = [
        f"{name}: {member}"
        for name in WRAPPED
        for member in sorted(original[name] - mirrored[name])
        if (name, member) not in UNREACHABLE
    ]
    if missing:
        sys.exit("rustls has, rustls-mirror hasn't:\n  " + "\n  ".join(missing))
    lines = ["What is public in rustls-mirror. Written by scripts/rustls-api.py --write.", ""]
    for path in ([], ["client"], ["server"], ["tokio"]):
        names = sorted(exports(mine, path))
        lines += ["::".join(["rustls_mirror", *path]), *(f"    {name}" for name in names)]
    lines += ["", "Of the wrapped types; + is more than rustls has."]
    for name in WRAPPED:
        lines.append(name)
        for member in sorted(mirrored[name]):
            lines.append(f"  {' ' if member in original[name] else '+'} {member}")
    text = "\n".join(lines) + "\n"
    if "--write" in sys.argv[1:]:
        RECORD.write_text(text)
    elif RECORD.read_text() != text:
        RECORD.with_suffix(".txt.new").write_text(text)
        sys.exit("rustls-mirror's public API has changed: see rustls-mirror/api.txt.new, or --write")


main()
