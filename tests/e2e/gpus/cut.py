#!/usr/bin/env python3
"""Cuts runs to a toy: reads manifests as JSON, as kubectl prints them, and writes a List for kubectl apply.

All else stays as it was written, so that the manifests are what is tested: models, volumes, references, profile, recipe and
pods. The volumes hold the toy in place of the data.
"""

import json
import sys

LIMIT, MAX_NEW_TOKENS, BATCH = 3, 12, 2


def documents(text):
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        document, at = decoder.raw_decode(text, at)
        at += len(text[at:]) - len(text[at:].lstrip())
        yield from document["items"] if document["kind"] == "List" else [document]


def cut(run):
    spec = run["spec"]
    if run["kind"] == "EvaluationRun":
        # The toy cannot read: its own questions stand for those of the benchmarks.
        scenes = {"volume": {"claimName": "benchmarks", "path": "scenes"}}
        spec["benchmarks"] = [{"name": "Scenes", "data": scenes, "limit": LIMIT}]
        spec.setdefault("description", {})["maxNewTokens"] = MAX_NEW_TOKENS
        return run
    training = spec.setdefault("training", {})
    training["globalBatchSize"] = BATCH
    if run["kind"] == "StageOneRun":
        data, generation = spec["images"], spec.setdefault("preferences", {})
    else:
        data, generation = spec["instructions"], spec.setdefault("description", {})
        # The toy has fewer positions than the models of the manifests.
        if "maxLength" in training:
            training["maxLength"] = 1024
    data["limit"] = LIMIT
    if generation.get("source") != "File":
        generation.setdefault("sampling", {})["maxNewTokens"] = MAX_NEW_TOKENS
    return run


runs = [cut(run) for run in documents(sys.stdin.read())]
json.dump({"apiVersion": "v1", "kind": "List", "items": runs}, sys.stdout)
