"""The page of features is the one that the code makes."""

from pathlib import Path

from cryptoml.features.catalogue import render
from cryptoml.features.engineer import AdvancedFeatureEngineer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "features.md"


def test_page_is_current():
    made = render(AdvancedFeatureEngineer())
    assert PAGE.read_text(encoding="utf-8") == made, "run `python -m cryptoml.features.catalogue > docs/features.md`"


def test_page_of_a_choice_holds_only_its_categories():
    page = render(AdvancedFeatureEngineer({"include": ("momentum_rsi_14", "time_hour_sin")}))
    assert page.count("\n## ") == 2
    assert "`momentum_rsi_14`" in page
