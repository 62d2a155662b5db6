#!/usr/bin/env python3
"""schemas.py SWAGGER FOLDER: converts Kubernetes' OpenAPI into the JSON schemas that kubeconform reads.

Unknown fields are errors, as with the API server's --validate=strict.
"""

import json
import sys
from pathlib import Path

DEFINITIONS = "_definitions.json"


def main(swagger, folder):
    definitions = json.loads(Path(swagger).read_text())["definitions"]
    folder = Path(folder)
    folder.mkdir(parents=True)
    strict = {name: convert(definition) for name, definition in definitions.items()}
    # The definitions of these two types do not describe their JSON.
    strict["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = {"type": ["string", "integer"]}
    strict["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {"type": ["string", "number"]}
    (folder / DEFINITIONS).write_text(json.dumps({"definitions": strict}))
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            group = kind["group"].partition(".")[0]
            parts = [kind["kind"], group, kind["version"]] if group else [kind["kind"], kind["version"]]
            file = folder / ("-".join(parts).lower() + ".json")
            # A kind such as DeleteOptions is in every group; kubeconform reads only kinds of whole objects.
            file.write_text(json.dumps({"$ref": f"{DEFINITIONS}#/definitions/{name}"}))


def convert(value):
    if isinstance(value, list):
        return [convert(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: convert(item) for key, item in value.items()}
    reference = value.get("$ref")
    if isinstance(reference, str):
        value["$ref"] = reference.replace("#/definitions/", f"{DEFINITIONS}#/definitions/")
    if isinstance(value.get("properties"), dict) and "additionalProperties" not in value:
        value["additionalProperties"] = False
    return value


if __name__ == "__main__":
    main(*sys.argv[1:])
