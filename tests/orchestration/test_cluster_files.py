"""The cluster files, by Ray's own validation and by more checks; without cloud or Kubernetes."""

from __future__ import annotations

import copy
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli

from dfml.data.datasets import REPOSITORY
from orchestration.cluster.capacity import Limits, Nodes, limits_of
from orchestration.flags import parser

FILES = ("cluster.yaml", "cluster.local.yaml")


def read(file: str) -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / file).read_text())


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the query to AWS for each node type's resources: the file has them."""
    monkeypatch.setattr(AWSNodeProvider, "fillout_available_node_types_resources", staticmethod(lambda config: config))


@pytest.mark.parametrize("file", FILES)
def test_rays_own_validation_accepts_the_file(file: str) -> None:
    validate_config(prepare_config(read(file)))


@pytest.mark.parametrize("file", FILES)
def test_rays_own_validation_would_object_to_a_misspelt_key(file: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match="idle_minutes"):
        validate_config(prepare_config(read(file) | {"idle_minutes": 5}))


@pytest.mark.parametrize("file", FILES)
def test_what_is_copied_exists_and_holds_neither_data_nor_secrets(file: str) -> None:
    for remote, local in read(file)["file_mounts"].items():
        if not local.startswith("~"):
            assert remote == f"~/dfml/{local}"
            assert (REPOSITORY / local).exists()
    copied = set(read(file)["file_mounts"].values())
    assert {"dfml", "orchestration", "run_sweep.py", "search_spaces", "constraints.txt"} <= copied
    assert not copied & {".", ".git", ".venv", "data", "sweeps", "~/.aws"}


@pytest.mark.parametrize("file", FILES)
def test_the_environment_is_that_of_the_constraints(file: str) -> None:
    installs = [command for command in read(file)["setup_commands"] if "pip install" in command]
    assert len(installs) == 1
    assert "--constraint constraints.txt" in installs[0]
    assert "3.11" in " ".join(read(file)["setup_commands"])


@pytest.mark.parametrize("file", FILES)
def test_each_node_asks_for_the_token_and_shows_its_dashboard_to_itself_only(file: str) -> None:
    config = read(file)
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    assert "~/.ray/auth_token" in config["file_mounts"]
    start = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start


def test_each_node_type_on_aws_says_what_it_is() -> None:
    config = read("cluster.yaml")
    for kind in config["available_node_types"].values():
        assert re.fullmatch(r"[a-z]\w+\.\d*x?large", kind["node_config"]["InstanceType"])
        assert kind["node_config"]["ImageId"].startswith("resolve:ssm:/aws/service/")
        assert set(kind["node_config"]["IamInstanceProfile"]) == {"Name"}
        assert kind["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "--num-cpus=0" in " ".join(config["head_start_ray_commands"])
    assert "InstanceMarketOptions" not in head["node_config"]
    workers = [kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]]
    assert all(kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for kind in workers)
    assert all(kind["min_workers"] == 0 for kind in workers)
    assert 0 < config["idle_timeout_minutes"] <= 30


def test_a_sweep_reckons_with_the_workers_that_the_file_allows() -> None:
    assert limits_of(prepare_config(read("cluster.yaml"))) == Limits((Nodes("gpu", 8, 8, 1),), 8)
    # The file doesn't have the resources of its machines.
    assert limits_of(prepare_config(read("cluster.local.yaml"))) == Limits((), 1)


def statements(file: str) -> list[dict[str, Any]]:
    return json.loads((REPOSITORY / "aws" / file).read_text())["Statement"]


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_the_rights_are_for_one_bucket_and_one_cluster() -> None:
    for statement in statements("bucket-policy.json"):
        assert all(resource.startswith("arn:aws:s3:::my-bucket") for resource in listed(statement["Resource"]))
        assert all(action.startswith("s3:") and "*" not in action for action in listed(statement["Action"]))
    cluster = read("cluster.yaml")["cluster_name"]
    for statement in statements("head-policy.json"):
        actions = listed(statement["Action"])
        assert all("*" not in action for action in actions)
        if "*" in listed(statement["Resource"]):
            assert all(action.startswith("ec2:Describe") for action in actions)
        if any(resource.endswith(":instance/*") for resource in listed(statement["Resource"])):
            ((key, value),) = statement["Condition"]["StringEquals"].items()
            assert (key, value) == ("ec2:CreateAction", "RunInstances") or (
                key.endswith("/ray-cluster-name") and value == cluster
            )


def test_the_readmes_commands_name_what_there_is() -> None:
    section = (REPOSITORY / "README.md").read_text().split("## On a cluster\n")[1].split("\n## ")[0]
    commands = re.findall(r"^    (ray .*)$", section, flags=re.M)
    assert len(commands) == 6
    for command in commands:
        _, name, *words = shlex.split(command)
        context = cli.commands[name].make_context(name, words)  # fails if an option doesn't exist
        if file := context.params.get("cluster_config_file"):
            assert (REPOSITORY / file).is_file()
        if inner := context.params.get("cmd"):
            _, _, _, _, script, *arguments = shlex.split(inner)
            assert (REPOSITORY / script).is_file()
            parser().parse_args(arguments)
    for file in re.findall(r"file://(\S+?)[;\s]", section):
        assert (REPOSITORY / file).is_file()


@pytest.fixture
def manifests() -> tuple[dict[str, Any], dict[str, Any]]:
    account, job = yaml.safe_load_all((REPOSITORY / "rayjob.yaml").read_text())
    return account, job


def test_the_rayjob_has_the_fields_that_kuberay_knows(manifests: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """The names are those of KubeRay 1.7's API reference; its server silently drops others."""
    account, job = manifests
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    known = {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"}
    assert set(spec) <= known
    options = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"}
    assert set(cluster) == options | {"headGroupSpec", "workerGroupSpecs"}
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert set(cluster["autoscalerOptions"]) <= {"version", "idleTimeoutSeconds", "upscalingMode"}
    (group,) = cluster["workerGroupSpecs"]
    assert set(group) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    pods = [cluster["headGroupSpec"]["template"]["spec"], group["template"]["spec"]]
    assert [pod["serviceAccountName"] for pod in pods] == [account["metadata"]["name"]] * 2
    # Version 2 of the autoscaler distinguishes pods by their nodes.
    assert [pod["restartPolicy"] for pod in pods] == ["Never"] * 2
    images = {container["image"] for pod in pods for container in pod["containers"]}
    assert len(images) == 1
    assert re.search(r":\d+\.\d+\.\d+$", images.pop())
    secrets = [variable["name"] for pod in pods for variable in pod["containers"][0]["env"]]
    assert not any("KEY" in name or "SECRET" in name for name in secrets)
    starts = [cluster["headGroupSpec"]["rayStartParams"], group["rayStartParams"]]
    assert all(isinstance(value, str) for start in starts for value in start.values())


def test_rays_autoscaler_reads_the_worker_group_from_the_rayjob(
    manifests: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    spec = copy.deepcopy(manifests[1]["spec"]["rayClusterSpec"])
    config = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "x", "namespace": "y"}, "spec": spec})
    assert limits_of(config) == Limits((Nodes("gpu", 8, 7, 1),), 8)
    assert config["available_node_types"]["headgroup"]["resources"]["CPU"] == 0


def test_the_rayjobs_command_is_one_that_run_sweep_takes(manifests: tuple[dict[str, Any], dict[str, Any]]) -> None:
    python, script, *arguments = shlex.split(manifests[1]["spec"]["entrypoint"])
    assert (python, Path(script).name) == ("python", "run_sweep.py")
    assert f"WORKDIR {Path(script).parent}\n" in (REPOSITORY / "Dockerfile").read_text()
    assert parser().parse_args(arguments).storage.startswith("s3://")
    assert f"FROM rayproject/ray:{ray.__version__}-py311\n" in (REPOSITORY / "Dockerfile").read_text()
