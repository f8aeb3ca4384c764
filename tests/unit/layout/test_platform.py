"""The manifests of the cluster's warm pool say what the programs understand, and agree with one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pilotlight_pool.arguments import Arguments, parse

PLATFORM = Path(__file__).parents[3] / "inferenceservices" / "platform" / "cpu"
POD = {"NODE_NAME": "ip-10-0-0-7.eu-central-1.compute.internal", "POD_IP": "10.1.2.3"}


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((PLATFORM / f"{name}.yaml").read_text()))


def container(name: str) -> Any:
    (found,) = documents(name)[0]["spec"]["template"]["spec"]["containers"]
    return found


def arguments(name: str) -> Arguments:
    argv = container(name)["args"]
    for variable, value in POD.items():
        argv = [word.replace(f"$({variable})", value) for word in argv]
    return parse(argv)


def test_the_coordinator_listens_where_its_service_leads() -> None:
    given, service = arguments("coordinator"), documents("coordinator")[1]
    ports = {port["name"]: port["containerPort"] for port in container("coordinator")["ports"]}
    assert given.listen.endswith(f":{ports['leases']}")
    assert given.agents_listen is not None
    assert given.agents_listen.endswith(f":{ports['agents']}")
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]} == ports
    assert documents("coordinator")[0]["spec"]["strategy"] == {"type": "Recreate"}


def test_the_coordinator_is_ready_before_its_agents_because_they_dial_its_service() -> None:
    assert container("coordinator")["readinessProbe"]["httpGet"]["path"] == "/healthz"
    assert container("agents")["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_an_agent_dials_the_coordinators_service_and_its_engines_can_be_reached() -> None:
    given, coordinator = arguments("agents").agent, documents("coordinator")
    assert given is not None
    service, ports = coordinator[1], {port["name"]: port["port"] for port in coordinator[1]["spec"]["ports"]}
    assert given.coordinator == f"http://{service['metadata']['name']}:{ports['agents']}"
    assert given.engine_host == POD["POD_IP"]
    assert given.engine_ports is not None
    pool, agent = documents("network-policies")
    (rule,) = agent["spec"]["ingress"]
    assert rule["ports"] == [
        {"protocol": "TCP", "port": given.engine_ports.start, "endPort": given.engine_ports.stop - 1}
    ]
    doors = [port["port"] for rule in pool["spec"]["ingress"] for port in rule["ports"]]
    assert doors == [ports["leases"], ports["agents"]]


def test_what_is_written_to_is_the_agents_own_folder_in_a_volume() -> None:
    # The mount itself belongs to root; what the agent makes below it is its own, to chmod as it likes.
    given = arguments("agents").agent
    assert given is not None
    mounts = [Path(mount["mountPath"]) for mount in container("agents")["volumeMounts"] if not mount.get("readOnly")]
    assert given.store is not None
    assert given.work_dir is not None
    for folder in (given.run_dir, given.store, Path(given.work_dir)):
        assert any(mount in folder.parents for mount in mounts), folder


def test_a_drain_ends_before_the_pod_is_killed() -> None:
    spec = documents("agents")[0]["spec"]["template"]["spec"]
    assert arguments("agents").drain_s + 10 <= spec["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", ["coordinator", "agents"])
def test_pods_are_what_the_restricted_policy_admits(name: str) -> None:
    spec = documents(name)[0]["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    context = container(name)["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert all(set(volume) & {"emptyDir", "secret"} for volume in spec["volumes"])
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
