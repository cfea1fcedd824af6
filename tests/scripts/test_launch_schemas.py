"""The files for Kubernetes against the part of the schemas that they use: JobSet 0.6 to 0.10, batch/v1 and core/v1.

The schemas are written by hand from the public references. A key that ends in "!" is required there, for JobSet in the
CRD of each of these versions; a field that is not listed is refused, as `kubectl apply` does.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

LAUNCH = Path(__file__).resolve().parents[2] / "scripts" / "launch"

TEXTS = {"*": str}
METADATA = {"name": str, "namespace": str, "labels": TEXTS, "annotations": TEXTS}
QUANTITIES = {"*": (int, str)}
CONTAINER = {
    "name!": str,
    "image": str,
    "command": [str],
    "args": [str],
    "env": [{"name!": str, "value": str, "valueFrom": {"fieldRef": {"fieldPath!": str}}}],
    "resources": {"limits": QUANTITIES, "requests": QUANTITIES},
    "securityContext": {"runAsUser": int},
    "volumeMounts": [{"name!": str, "mountPath!": str}],
}
VOLUME = {
    "name!": str,
    "csi": {"driver!": str, "volumeAttributes": TEXTS},
    "persistentVolumeClaim": {"claimName!": str},
}
POD = {
    "containers!": [CONTAINER],
    "volumes": [VOLUME],
    "restartPolicy": ("Always", "OnFailure", "Never"),
    "nodeSelector": TEXTS,
    "serviceAccountName": str,
    "terminationGracePeriodSeconds": int,
}
FAILURE_RULE = {
    "action!": ("FailJob", "FailIndex", "Ignore", "Count"),
    "onExitCodes": {"containerName": str, "operator!": ("In", "NotIn"), "values!": [int]},
    "onPodConditions": [{"type!": str, "status!": str}],  # JobSet 0.6.0 to 0.10.1 refuse a type alone
}
JOB_SPEC = {
    "parallelism": int,
    "completions": int,
    "completionMode": ("NonIndexed", "Indexed"),
    "backoffLimit": int,
    "backoffLimitPerIndex": int,
    "podFailurePolicy": {"rules!": [FAILURE_RULE]},
    "template!": {"metadata": METADATA, "spec": POD},
}
JOB = {"apiVersion!": ("batch/v1",), "kind!": ("Job",), "metadata!": METADATA, "spec!": JOB_SPEC}
JOBSET = {
    "apiVersion!": ("jobset.x-k8s.io/v1alpha2",),
    "kind!": ("JobSet",),
    "metadata!": METADATA,
    "spec!": {
        "failurePolicy": {
            "maxRestarts": int,
            "rules": [
                {
                    "name!": str,
                    "action!": ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"),
                    "onJobFailureReasons": [str],
                    "targetReplicatedJobs": [str],
                }
            ],
        },
        "replicatedJobs": [{"name!": str, "replicas": int, "template!": {"metadata": METADATA, "spec": JOB_SPEC}}],
    },
}
SCHEMAS = {"jobset.yaml": JOBSET, "prepare.yaml": JOB}


def problems(value: Any, schema: Any, path: str = "") -> list[str]:
    """Return the fields that a server with this schema would refuse."""
    match schema:
        case dict() if "*" in schema and isinstance(value, dict):
            return [each for key, item in value.items() for each in problems(item, schema["*"], f"{path}.{key}")]
        case dict() if isinstance(value, dict):
            known = {key.rstrip("!"): part for key, part in schema.items()}
            missing = [f"{path}.{key[:-1]} is missing" for key in schema if key.endswith("!") and key[:-1] not in value]
            unknown = [f"{path}.{key} is unknown" for key in value if key not in known]
            inside = [(item, known[key], f"{path}.{key}") for key, item in value.items() if key in known]
            return missing + unknown + [each for part in inside for each in problems(*part)]
        case [part] if isinstance(value, list):
            return [each for number, item in enumerate(value) for each in problems(item, part, f"{path}.{number}")]
        case type() if type(value) is schema:
            return []
        case tuple() if value in schema or type(value) in schema:
            return []
    return [f"{path} is {value!r}"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_server_takes_the_file(name: str) -> None:
    assert problems(yaml.safe_load((LAUNCH / name).read_text()), SCHEMAS[name]) == []


def test_what_a_server_refuses_is_found() -> None:
    jobset = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    changed = copy.deepcopy(jobset)
    spec = changed["spec"]["replicatedJobs"][0]["template"]["spec"]
    del spec["podFailurePolicy"]["rules"][-1]["onPodConditions"][0]["status"]
    spec["parallelism"] = "4"
    spec["retries"] = 3
    rules = f"spec.replicatedJobs.0.template.spec.podFailurePolicy.rules.{len(job['podFailurePolicy']['rules']) - 1}"
    assert sorted(problem.lstrip(".") for problem in problems(changed, JOBSET)) == [
        "spec.replicatedJobs.0.template.spec.parallelism is '4'",
        f"{rules}.onPodConditions.0.status is missing",
        "spec.replicatedJobs.0.template.spec.retries is unknown",
    ]
