"""Tests of `cluster.yaml`: Ray's own bootstrap and node provider against moto's EC2 and IAM."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import yaml
from ray.autoscaler._private.aws import node_provider
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from dfml.data.datasets import REPOSITORY
from tests.s3.servers import moto_server

pytestmark = [pytest.mark.integration, pytest.mark.clusters]

WORLD = {"0.0.0.0/0", "::/0"}


@pytest.fixture(scope="module")
def ec2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start moto's EC2 and make the roles from aws/*.json as the README describes."""
    with moto_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        region = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())["provider"]["region"]
        # Ray writes the key of its instances into ~/.ssh.
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        iam = boto3.client("iam", region)
        policies = {"dfml-head": ("head-policy", "bucket-policy"), "dfml-worker": ("bucket-policy",)}
        for role, files in policies.items():
            iam.create_role(RoleName=role, AssumeRolePolicyDocument=(REPOSITORY / "aws" / "trust.json").read_text())
            for file in files:
                text = (REPOSITORY / "aws" / f"{file}.json").read_text()
                iam.put_role_policy(RoleName=role, PolicyName=file, PolicyDocument=text)
            iam.create_instance_profile(InstanceProfileName=role)
            iam.add_role_to_instance_profile(InstanceProfileName=role, RoleName=role)
        yield boto3.client("ec2", region)


@pytest.fixture(scope="module")
def launched(ec2: Any) -> dict[str, dict[str, Any]]:
    """Launch the head and a worker, and return their descriptions from EC2."""
    written = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())
    types = [kind["node_config"]["InstanceType"] for kind in written["available_node_types"].values()]
    with pytest.MonkeyPatch.context() as patch:
        # Ray lists all 900 types, which takes 11 s with moto.
        kinds = ec2.describe_instance_types(InstanceTypes=types)["InstanceTypes"]
        patch.setattr(node_provider, "list_ec2_instances", lambda *arguments: kinds)
        config = _bootstrap_config(written, no_config_cache=True)
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    found = {}
    for name, kind in (("head", "head"), ("gpu", "worker")):
        declared = config["available_node_types"][name]
        tags = {TAG_RAY_NODE_KIND: kind, TAG_RAY_USER_NODE_TYPE: name}
        provider.create_node_with_resources_and_labels(
            declared["node_config"], tags, 1, declared["resources"], declared.get("labels", {})
        )
        (instance,) = provider.non_terminated_nodes({TAG_RAY_USER_NODE_TYPE: name})
        found[name] = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    return found


def test_the_head_is_small_on_demand_and_without_a_gpu(launched: dict[str, dict[str, Any]], ec2: Any) -> None:
    head = launched["head"]
    assert head.get("InstanceLifecycle") != "spot"
    (kind,) = ec2.describe_instance_types(InstanceTypes=[head["InstanceType"]])["InstanceTypes"]
    assert "GpuInfo" not in kind
    assert kind["VCpuInfo"]["DefaultVCpus"] <= 4


def test_the_workers_are_spot_machines_with_the_resources_that_the_file_says(
    launched: dict[str, dict[str, Any]], ec2: Any
) -> None:
    worker = launched["gpu"]
    assert worker["InstanceLifecycle"] == "spot"
    (kind,) = ec2.describe_instance_types(InstanceTypes=[worker["InstanceType"]])["InstanceTypes"]
    declared = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())["available_node_types"]["gpu"]
    assert declared["resources"] == {
        "CPU": kind["VCpuInfo"]["DefaultVCpus"],
        "GPU": sum(gpu["Count"] for gpu in kind["GpuInfo"]["Gpus"]),
    }


def test_each_has_the_profile_with_its_rights_alone(launched: dict[str, dict[str, Any]]) -> None:
    profiles = {name: instance["IamInstanceProfile"]["Arn"].split("/")[-1] for name, instance in launched.items()}
    assert profiles == {"head": "dfml-head", "gpu": "dfml-worker"}


def test_the_world_reaches_port_22_only_and_the_nodes_reach_each_other(
    launched: dict[str, dict[str, Any]], ec2: Any
) -> None:
    groups = {group["GroupId"] for instance in launched.values() for group in instance["SecurityGroups"]}
    (group,) = ec2.describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"]
    assert group["GroupName"] == "dfml"
    inward = group["IpPermissions"]
    to_the_world = [
        rule
        for rule in inward
        if {r.get("CidrIp") or r.get("CidrIpv6") for r in rule["IpRanges"] + rule.get("Ipv6Ranges", [])} & WORLD
    ]
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in to_the_world] == [("tcp", 22, 22)]
    among_themselves = [rule for rule in inward if rule not in to_the_world]
    assert all(not rule["IpRanges"] for rule in among_themselves)
    assert {pair["GroupId"] for rule in among_themselves for pair in rule["UserIdGroupPairs"]} == groups


def test_the_key_that_ray_made_lies_in_the_home_and_is_the_instances(launched: dict[str, dict[str, Any]]) -> None:
    for instance in launched.values():
        file = os.path.expanduser(f"~/.ssh/{instance['KeyName']}.pem")
        assert os.stat(file).st_mode & 0o077 == 0
