"""Files that commands are run on."""

from pathlib import Path

import pytest

FILES = {
    "items.csv": "item_id,title,price\na,Red Lamp,3\nb,Blue Lamp,7\nc,Green Tea,2\n",
    "events.csv": "user_id,item_id,timestamp\nu1,a,1\nu1,b,2\nu2,b,1\nu2,c,2\n",
    "swapped.csv": "user_id,item_id,timestamp\na,u1,1\nb,u1,2\nb,u2,1\n",
    "unknown.csv": "user_id,item_id,timestamp\nu1,a,1\nu1,zzz,2\n",
    "foreign_items.csv": "Stock Code,Description\na,Red Lamp\nb,Blue Lamp\n",
    "foreign_events.csv": "CustomerID,SKU,InvoiceDate\nu1,a,2011-01-01\n",
    "own_items.csv": "Stock Code,Bezeichnung\na,Red Lamp\nb,Blue Lamp\n",
    "own_events.csv": "CustomerID,SKU,Wann\nu1,a,2011-01-01\n",
    "unnamed.dat": "1::Caf\xe9 Noir::Drama\n2::Luna::Comedy\n",
    "no_title.csv": "item_id,colour\na,red\n",
    "twice.csv": "item_id,title\na,Lamp\na,Lantern\n",
    "no_id.csv": "item_id,title\n,Lamp\nb,Tea\n",
    "nan_id.csv": "user_id,item_id,timestamp\nu1,,1\n",
    "empty.csv": "item_id,title\n",
    "undefined.j2": '{#\nname="x"\nversion=1\ninputs=["history"]\noutput="item"\n#}\n'
    "{% block user %}{{ mood }}{% endblock %}",
    "syntax.j2": '{#\nname="x"\nversion=1\ninputs=["history"]\noutput="item"\n#}\n'
    "{% block user %}{% for x in %}{% endblock %}",
    "attribute.j2": '{#\nname="x"\nversion=1\ninputs=["history"]\noutput="item"\n#}\n'
    "{% block user %}{% for x in history %}{{ x.colour }}{% endfor %}{% endblock %}",
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with valid and invalid files, as the current folder."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "latin.csv").write_bytes("item_id,title\na,Café\n".encode("latin-1"))
    (tmp_path / "table.pkl").write_bytes(b"\x80\x04.")
    monkeypatch.chdir(tmp_path)
    return tmp_path
