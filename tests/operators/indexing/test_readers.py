import gzip
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.operators.indexing.readers import ReaderSettings, ReadFailure, read, reader
from rag.operators.indexing.readers.base import _READERS
from rag.operators.indexing.readers.html import html_to_markdown
from rag.types import Document


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes | str], Path]:
    def write(name: str, content: bytes | str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def documents(path: Path, **settings: Any) -> list[Document]:
    items = list(read(path, path.parent, ReaderSettings(**settings)))
    assert not [item for item in items if isinstance(item, ReadFailure)], items
    return [item for item in items if isinstance(item, Document)]


def only(path: Path, **settings: Any) -> Document:
    (document,) = documents(path, **settings)
    return document


def failure(path: Path, **settings: Any) -> ReadFailure:
    items = list(read(path, path.parent, ReaderSettings(**settings)))
    assert len(items) == 1
    assert isinstance(items[0], ReadFailure)
    return items[0]


# Plain text


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "a.unknown", "README", "a.rst"])
def test_text_is_the_decoded_file_exactly(put: Callable[..., Path], name: str) -> None:
    content = "\n  Ünïcödé\r\nline two\rthree\x0c\n\n\ttab  \n\n"
    assert only(put(name, content)).text == content


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_encodings_are_found(put: Callable[..., Path], encoding: str) -> None:
    text = "Der Käse kostet fünf Euro.\nÜber allen Gipfeln ist Ruh, in allen Wipfeln spürest du kaum einen Hauch.\n"
    assert only(put("a.txt", text.encode(encoding))).text == text


def test_other_scripts_are_found_by_statistics(put: Callable[..., Path]) -> None:
    russian = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. " * 4
    japanese = (
        "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で泣いていた。" * 4
    )
    assert only(put("ru.txt", russian.encode("cp1251"))).text == russian
    assert only(put("ja.txt", japanese.encode("shift_jis"))).text == japanese


def test_the_encoding_can_be_told(put: Callable[..., Path]) -> None:
    path = put("a.txt", "żółw".encode("iso-8859-2"))
    assert only(path, encoding="iso-8859-2").text == "żółw"
    assert "not ascii at byte 0" in failure(path, encoding="ascii").reason
    assert "unknown encoding 'klingon'" in failure(path, encoding="klingon").reason


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)) * 20,
        b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x01\x07" * 100,
        b"PK\x03\x04" + bytes(200),
        gzip.compress(bytes(1000) + b"x" * 1000),
        b"text" * 10 + bytes(50),
        b"\xff\xfe\x00\xd8\x00",
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.csv", "a.json", "a.html", "noname"])
def test_binary_junk_is_refused(put: Callable[..., Path], content: bytes, name: str) -> None:
    assert failure(put(name, content)).path == name


def test_too_large_is_refused(put: Callable[..., Path]) -> None:
    assert failure(put("a.txt", "x" * 101), max_bytes=100).reason == "larger than max_bytes = 100"
    assert only(put("b.txt", "x" * 100), max_bytes=100)


def test_what_the_system_refuses_is_told(put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = put("a.txt", "x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert failure(path).reason == "permission denied"
    monkeypatch.undo()
    assert "no such file" in failure(path.with_name("gone.txt")).reason


def test_names_in_any_script(put: Callable[..., Path]) -> None:
    assert only(put("Übung – 練習.txt", "x")).id == "Übung – 練習.txt"
    assert only(put("100% #1.txt", "x")).id == "100%25 %231.txt"


def test_front_matter_becomes_metadata(put: Callable[..., Path]) -> None:
    text = "---\ntitle: A Title\ndate: 2024-05-01\ntags: [a, b]\nauthor:\n  name: Ann\n---\n# Other\ntext\n"
    document = only(put("a.md", text))
    assert document.text == text
    assert document.metadata == {
        "title": "A Title",
        "date": "2024-05-01",
        "tags": ["a", "b"],
        "author.name": "Ann",
        "format": "markdown",
    }


def test_markdown_title_is_the_first_heading(put: Callable[..., Path]) -> None:
    assert only(put("a.md", "```\n# no\n```\n## Sub\n\nThe *Title*\n====\n")).metadata["title"] == "The Title"
    assert "title" not in only(put("b.md", "no headings\n\n---\n")).metadata


@pytest.mark.parametrize(
    "yaml",
    [
        "title: [unclosed",
        "a: &x !!python/object/apply:os.system ['echo hi']",
        "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]",
    ],
)
def test_bad_front_matter_is_told_and_the_rest_read(put: Callable[..., Path], yaml: str) -> None:
    path = put("a.md", f"---\n{yaml}\n---\n# Title\n")
    problem, document = read(path, path.parent)
    assert isinstance(problem, ReadFailure)
    assert problem.partial
    assert "front matter" in problem.reason
    assert isinstance(document, Document)
    assert document.metadata == {"title": "Title", "format": "markdown"}


def test_code_has_a_language(put: Callable[..., Path]) -> None:
    assert only(put("a.rs", "fn main() {}")).metadata == {"format": "code", "language": "rust"}


# HTML

PAGE = """<!doctype html><html lang="en"><head><title>The  Page</title><meta name="author" content="Ann">
<style>p { color: red }</style><script>var x = "<p>no</p>";</script></head>
<body><nav><a href="/">Home</a></nav><h1>Head<a class="headerlink" href="#h">¶</a></h1>
<p>First &amp; <b>bold</b>,
wrapped.</p><ul><li>one<ul><li>deep</li></ul></li><li><p>two</p></li></ul><ol><li>a</li><li>b</li></ol>
<pre>def f():
    return 1
</pre>
<table><tr><th>k</th><th>v</th></tr>
<tr><td>a|b</td><td>1</td></tr></table>Tail<br>line<footer>foot</footer>
</body></html>"""


def test_html_becomes_markdown(put: Callable[..., Path]) -> None:
    document = only(put("a.html", PAGE))
    assert document.text == (
        "# Head\n\nFirst & bold, wrapped.\n\n- one\n  - deep\n- two\n\n1. a\n2. b\n\n"
        "```\ndef f():\n    return 1\n```\n\n| k | v |\n| --- | --- |\n| a\\|b | 1 |\n\nTail\nline"
    )
    assert document.metadata == {"title": "The Page", "author": "Ann", "language": "en", "format": "markdown"}


def test_html_with_main_and_with_open_ends() -> None:
    assert html_to_markdown("<div>side</div><main><p>body</p></main><div>end</div>")[0] == "body"
    assert html_to_markdown("<nav>menu<p>text that is not navigation")[0] == "menu\n\ntext that is not navigation"
    assert html_to_markdown("<p>a<p>b</div></span><li>c")[0] == "a\n\nb\n\n- c"
    assert html_to_markdown("")[0] == ""


def test_html_of_any_depth_and_breakage(put: Callable[..., Path]) -> None:
    start = time.process_time()
    for tag in ("div", "b", "ul><li", "table><tr><td", "blockquote", "pre"):
        assert "core" in only(put("deep.html", f"<{tag}>" * 20_000 + "core")).text
    assert time.process_time() - start < 10


MARKUP = [
    *"<>/!?-[]&;=\"' \n|x",
    *(
        "<p>",
        "</p>",
        "<!--",
        "-->",
        "<![if x",
        "<![CDATA[",
        "<![foo[",
        "]]>",
        "<!DOCTYPE",
        "<?xml",
        "&amp;",
        "&#xD800;",
    ),
    *(
        "<table>",
        "</table>",
        "<tr>",
        "<td>",
        "<ul>",
        "<li>",
        "</ol>",
        "<pre>",
        "</pre>",
        "<h1>",
        "</h2>",
        "<br/>",
        "<nav>",
    ),
    *(
        "<script>",
        "</script>",
        "<title>",
        "</title>",
        "<main>",
        "</main>",
        "<a class=headerlink>",
        "<meta name=x content=y>",
    ),
]


@given(st.lists(st.sampled_from(MARKUP), max_size=60).map("".join))
def test_no_markup_stops_the_html_reader(markup: str) -> None:
    text, metadata = html_to_markdown(markup)
    assert text == text.strip("\n")
    json.dumps([text, metadata]).encode()


def test_html_declares_its_encoding(put: Callable[..., Path]) -> None:
    page = '<html><head><meta charset="iso-8859-2"></head><body>żółw</body>'
    assert only(put("a.html", page.encode("iso-8859-2"))).text == "żółw"
    assert only(put("b.html", page.replace("8859-2", "8859-99").encode())).text == "żółw"


# PDF


def pdf_bytes(pages: list[str], title: str | None = None) -> bytes:
    """A minimal PDF written by hand."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    kids = []
    for text in pages:
        lines = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)").split("\n")
        stream = ("BT /F1 12 Tf 14 TL 72 720 Td " + " T* ".join(f"({line}) Tj" for line in lines) + " ET").encode()
        objects.append(b"<< /Length %d >>\nstream\n%b\nendstream" % (len(stream), stream))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources << /Font << /F1 << "
            b"/Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%b] >>" % (len(kids), b" ".join(kids))
    info = b""
    if title:
        objects.append(b"<< /Title (%b) >>" % title.encode())
        info = b" /Info %d 0 R" % len(objects)
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % at for at in offsets)
    return out + b"xref\n0 %d\n0000000000 65535 f \n%btrailer\n<< /Size %d /Root 1 0 R%b >>\nstartxref\n%d\n%%%%EOF" % (
        len(offsets) + 1,
        table,
        len(offsets) + 1,
        info,
        len(out),
    )


def test_pdf_pages_are_known(put: Callable[..., Path]) -> None:
    document = only(put("a.pdf", pdf_bytes(["First page.\nMore.", "Second page.", "Third."], "A Paper")))
    assert document.metadata["title"] == "A Paper"
    assert document.metadata["format"] == "pdf"
    pages = document.metadata["pages"]
    assert [document.text[at : at + 5] for at in pages] == ["First", "Secon", "Third"]
    assert document.text.split() == ["First", "page.", "More.", "Second", "page.", "Third."]


def test_damaged_pdf(put: Callable[..., Path]) -> None:
    good = pdf_bytes(["Some text."] * 3)
    assert failure(put("a.pdf", b"junk" * 100)).reason == "damaged: no PDF header"
    assert failure(put("b.pdf", b"%PDF-1.7\n" + bytes(500))).reason.startswith("damaged")
    assert failure(put("c.pdf", good[:60])).reason.startswith("damaged")
    for cut in range(0, len(good), 97):  # whatever is missing or wrong, reading does not raise
        list(read(put("d.pdf", good[:cut]), put("d.pdf", good[:cut]).parent))
        list(read(put("d.pdf", good[:cut] + b"\xff" * 40 + good[cut + 40 :]), put("x", "").parent))


def test_encrypted_pdf(put: Callable[..., Path]) -> None:
    import pypdf

    def encrypted(user: str) -> bytes:
        writer = pypdf.PdfWriter(io.BytesIO(pdf_bytes(["Secret text."])))
        writer.encrypt(user, "owner", algorithm="RC4-128")
        out = io.BytesIO()
        writer.write(out)
        return out.getvalue()

    assert "password" in failure(put("a.pdf", encrypted("letmein"))).reason
    assert "Secret text." in only(put("b.pdf", encrypted(""))).text  # locked against printing, not against reading


def test_pdf_without_text(put: Callable[..., Path]) -> None:
    assert "OCR" in failure(put("scan.pdf", pdf_bytes([""]))).reason


def test_missing_extra_is_named(put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    word = docx_bytes()
    monkeypatch.setitem(sys.modules, "pypdf", None)
    monkeypatch.setitem(sys.modules, "docx", None)
    assert "modular-rag[readers]" in failure(put("a.pdf", pdf_bytes(["x"]))).reason
    assert "modular-rag[readers]" in failure(put("a.docx", word)).reason


# DOCX


def docx_bytes() -> bytes:
    import docx

    word = docx.Document()
    word.core_properties.title = "Report"
    word.core_properties.author = "Ann"
    word.add_heading("Report", 0)
    word.add_heading("Part one", 1)
    word.add_paragraph("Some text.")
    word.add_paragraph("first", style="List Bullet")
    word.add_paragraph("second", style="List Bullet")
    table = word.add_table(rows=2, cols=2)
    for row, cells in enumerate((("k", "v"), ("a", "1"))):
        for column, cell in enumerate(cells):
            table.cell(row, column).text = cell
    word.add_paragraph("End.")
    out = io.BytesIO()
    word.save(out)
    return out.getvalue()


def test_docx_becomes_markdown(put: Callable[..., Path]) -> None:
    document = only(put("a.docx", docx_bytes()))
    assert document.text == (
        "# Report\n\n# Part one\n\nSome text.\n\n- first\n- second\n\n| k | v |\n| --- | --- |\n| a | 1 |\n\nEnd."
    )
    assert document.metadata["title"] == "Report"
    assert document.metadata["author"] == "Ann"


def test_damaged_docx(put: Callable[..., Path]) -> None:
    good = docx_bytes()
    assert failure(put("a.docx", b"junk" * 50)).reason.startswith("damaged")
    assert failure(put("b.docx", good[: len(good) // 2])).reason.startswith("damaged")
    assert failure(put("c.docx", b"\xd0\xcf\x11\xe0" + bytes(500))).reason.startswith("encrypted, or an old .doc")
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("x.txt", "not a document")
    assert failure(put("d.docx", other.getvalue())).reason.startswith("damaged")


def test_docx_that_unpacks_to_too_much(put: Callable[..., Path]) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", bytes(5_000_000))
    assert "unpacks to 5,000,000 bytes" in failure(put("a.docx", bomb.getvalue()), max_bytes=1_000_000).reason


# Tables and records


def test_csv_rows_with_prose(put: Callable[..., Path]) -> None:
    path = put("a.csv", 'id,title,year,text\n7,One,2001,"A text, with\nlines."\n8,Two,2002,Another.\n')
    assert documents(path) == [
        Document("a.csv#7", "A text, with\nlines.", {"year": 2001, "title": "One", "format": "record"}),
        Document("a.csv#8", "Another.", {"year": 2002, "title": "Two", "format": "record"}),
    ]


def test_csv_prose_column_is_found_by_looking(put: Callable[..., Path]) -> None:
    prose = "this cell holds a long sentence that reads like real prose"
    first, second = documents(put("a.tsv", f"sku\tremarks\tprice\nA1\t{prose}\t3.50\nB2\t{prose} too\t007\n"))
    assert (first.id, first.text, first.metadata) == (
        "a.tsv#1",
        prose,
        {"sku": "A1", "price": 3.5, "format": "record"},
    )
    assert second.metadata["price"] == "007"


def test_csv_without_prose_is_one_document(put: Callable[..., Path]) -> None:
    path = put("a.csv", "name;price\nBolt;1,5\nNut;2\n")
    document = only(path)
    assert document.text == "name: Bolt, price: 1,5\nname: Nut, price: 2"
    assert document.metadata == {"format": "table", "columns": ["name", "price"]}
    assert [d.text for d in documents(path, tables="rows", text_field="price")] == ["1,5", "2"]


def test_csv_settings_name_columns_that_exist(put: Callable[..., Path]) -> None:
    path = put("a.csv", "name,price\nBolt,1\n")
    assert "no column 'prise' (text_field); did you mean 'price'?" in failure(path, text_field="prise").reason


def test_csv_oddities(put: Callable[..., Path]) -> None:
    assert list(read(put("empty.csv", ""), put("empty.csv", "").parent)) == []
    ragged = put("a.csv", "text,n\nhello there,1,2,3\n\nshort\n")
    assert [d.text for d in documents(ragged)] == ["hello there", "short"]
    doubled = documents(put("b.csv", "text,a,a,\nhello,1,2,3\n"))
    assert doubled[0].metadata == {"a": 1, "a_": 2, "column 4": 3, "format": "record"}
    items = list(read(put("c.csv", "id,text\n1,a\n1,b\n"), ragged.parent))
    assert [type(i) for i in items] == [Document, ReadFailure]
    assert "the id '1' occurred before" in items[1].reason  # type: ignore[union-attr]
    long = "word " * 60_000  # longer than the csv module takes by default
    assert documents(put("d.csv", f"text\n{long}\n"))[0].text == long


def records(path: Path) -> Iterator[tuple[str, str]]:
    return ((d.id, d.text) for d in documents(path))


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz", "corpus.ndjson"])
def test_json_lines(put: Callable[..., Path], name: str) -> None:
    lines = [
        {"_id": "d1", "title": "T", "text": " Exact text \n", "metadata": {"year": 2020}, "tags": ["a"]},
        {"id": 5, "contents": "Other"},
        {"title": "Only a title", "text": ""},
        {"name": "Thing", "price": "3", "colour": "red"},
    ]
    raw = "\n".join(map(json.dumps, lines)).encode()
    found = documents(put(name, gzip.compress(raw) if name.endswith("gz") else raw))
    assert [d.id for d in found] == [f"{name}#{n}" for n in ("d1", "5", "3", "4")]
    assert found[0].text == " Exact text \n"
    assert found[0].metadata == {"tags": ["a"], "year": 2020, "title": "T", "format": "record"}
    assert found[2].text == "Only a title"
    assert found[3].text == "Thing\nprice: 3\ncolour: red"


def test_bad_lines_are_told_and_the_rest_read(put: Callable[..., Path]) -> None:
    path = put("a.jsonl", '{"text": "good"}\n{"text": \n[1]\n{"text": ""}\n{"text": "\\ud800 half"}\n')
    items = list(read(path, path.parent))
    told = [i.reason for i in items if isinstance(i, ReadFailure)]
    assert [reason.split(":")[0] for reason in told] == ["line 2", "line 3", "line 4"]
    assert all(i.partial for i in items if isinstance(i, ReadFailure))
    assert [i.text for i in items if isinstance(i, Document)] == ["good", "\ufffd half"]
    half = only(put("c.jsonl", '{"_id": "\\udc00", "title": "\\udc00", "text": "x", "more": ["\\udc00"]}'))
    assert (half.id, half.metadata["title"], half.metadata["more"]) == ("c.jsonl#\ufffd", "\ufffd", ["\ufffd"])
    assert "not JSON" in failure(put("d.jsonl", '{"text": "x", "n": ' + "9" * 5000 + "}")).reason
    many = put("b.jsonl", "no\n" * 500)
    items = list(read(many, many.parent))
    assert len(items) == 21
    assert "480 further lines" in str(items[-1])


def test_damaged_gzip_and_endless_line(put: Callable[..., Path]) -> None:
    whole = gzip.compress(b'{"text": "a"}\n' * 1000)
    assert failure(put("a.jsonl.gz", b"junk")).reason.startswith("damaged")
    cut = list(read(put("b.jsonl.gz", whole[: len(whole) // 2]), put("x", "").parent))
    assert isinstance(cut[-1], ReadFailure)
    bomb = put("c.jsonl.gz", gzip.compress(b" " * 3_000_000))
    assert "a line is longer than" in failure(bomb, max_bytes=1_000_000).reason


def test_json(put: Callable[..., Path]) -> None:
    assert list(records(put("a.json", '[{"id": "x", "text": "one"}, {"id": "y", "text": "two"}]'))) == [
        ("a.json#x", "one"),
        ("a.json#y", "two"),
    ]
    text = '{\n  "a": 1\n}\n'
    assert only(put("b.json", text)).text == text
    assert failure(put("c.json", "{\n bad")).reason.startswith("line 2: not JSON")
    assert "nested too deeply" in failure(put("d.json", "[" * 200_000)).reason


def test_notebook(put: Callable[..., Path]) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Study\n", "text"]},
        {"cell_type": "code", "source": "x = 1\n", "outputs": [{"text": "noise"}]},
        {"cell_type": "code", "source": []},
    ]
    document = only(put("a.ipynb", json.dumps({"cells": cells, "metadata": {}})))
    assert document.text == "# Study\ntext\n\n```python\nx = 1\n```"
    assert document.metadata == {"title": "Study", "format": "markdown", "language": "python"}
    assert "not a notebook" in failure(put("b.ipynb", "[1]")).reason


def test_a_reader_can_be_added(put: Callable[..., Path]) -> None:
    @reader(".shout")
    def read_shout(path: Path, id: str, settings: ReaderSettings) -> Iterator[Document]:
        yield Document(id, path.read_text().upper())
        yield Document("elsewhere", "x")

    try:
        document, problem = read(put("a.shout", "hey"), put("a.shout", "hey").parent)
    finally:
        del _READERS[".shout"]
    assert document == Document("a.shout", "HEY")
    assert isinstance(problem, ReadFailure)


def test_real_corpora_are_read_whole(data: Path) -> None:
    for name, count in (("scifact/corpus.jsonl.gz", 5183), ("cranfield/corpus.jsonl", 1398)):
        assert len(documents(data / name)) == count
