"""Graphs in networkx and in files."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx
import pytest

from rag.errors import ConfigError, DamagedFileError, InputError, NotFoundError
from rag.graphs import export, from_networkx, load_graph, save_graph, to_networkx
from tests.graphs.test_knowledge import content, people


def test_networkx_gets_all_and_gives_it_back():
    graph = people()
    graph.withdraw([1])
    graph.node("entity", "ada", born=1815)
    made = to_networkx(graph)
    assert {data["name"]: data.get("born") for _, data in made.nodes(data=True)} == {
        "ada": 1815,
        "charles": None,
        "engine": None,
    }
    assert sorted((u, v, key, data["weight"]) for u, v, key, data in made.edges(keys=True, data=True)) == [
        (0, 1, "knew", 1.0),
        (0, 2, "worked on", 2.0),
    ]
    assert content(from_networkx(made)) == content(graph)


def test_any_networkx_graph_becomes_one():
    graph = from_networkx(nx.karate_club_graph(), kind="member", relation="befriends")
    assert graph.kinds == {"member": 34}
    assert graph.csr().edges == 2 * 78
    assert graph.at(0).attributes == {"club": "Mr. Hi"}
    alone = nx.Graph()
    alone.add_node(("a", 1))
    assert from_networkx(alone).find("entity", "('a', 1)") == 0
    alone.add_node("x", name="('a', 1)")
    with pytest.raises(InputError, match="two nodes"):
        from_networkx(alone)
    alone = nx.Graph()
    alone.add_edge(0, 1, weight="heavy")
    with pytest.raises(InputError, match="'heavy'"):
        from_networkx(alone)


def test_files_for_other_programs(tmp_path: Path):
    graph = people()
    graph.node("entity", "ada", born=1815, roles=["writer", "countess"], note="ü")
    export(graph, tmp_path / "graph.graphml")
    read = nx.read_graphml(tmp_path / "graph.graphml", node_type=int, force_multigraph=True)
    assert json.loads(read.nodes[0]["roles"]) == ["writer", "countess"]
    assert read.number_of_edges() == 3
    export(graph, tmp_path / "graph.json")
    read = nx.node_link_graph(json.loads((tmp_path / "graph.json").read_text(encoding="utf-8")), edges="edges")
    assert read.number_of_edges() == 3
    assert read.nodes[0]["note"] == "ü"
    with pytest.raises(ConfigError, match="'svg'"):
        export(graph, tmp_path / "graph.svg")


def test_a_saved_graph_comes_back_whole(tmp_path: Path):
    graph = people()
    graph.keep(graph.node("table", "sales — 売上", rows=[1, {"a": None}]))
    graph.add(graph.node("entity", "gone"), "knew", 0, source=9)
    graph.withdraw([9])
    save_graph(graph, tmp_path / "graph.safetensors")
    read = load_graph(tmp_path / "graph.safetensors")
    assert content(read) == content(graph)
    number = read.find("table", "sales — 売上")
    assert number is not None
    assert read.at(number).attributes == {"rows": [1, {"a": None}]}
    assert read.statements([1]).spans.tolist() == [[0, 3], [8, 15]]
    read.withdraw([1, 2])
    assert read.kinds == {"table": 1}
    save_graph(read, tmp_path / "graph.safetensors")
    assert len(load_graph(tmp_path / "graph.safetensors")) == 1


def test_a_damaged_file_is_refused(tmp_path: Path):
    path = tmp_path / "graph.safetensors"
    with pytest.raises(NotFoundError):
        load_graph(path)
    save_graph(people(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(DamagedFileError):
        load_graph(path)
    path.write_bytes(whole.replace(b"adacharlesengine", b"ada\xff\xffarlesengine"))
    with pytest.raises(DamagedFileError):
        load_graph(path)
