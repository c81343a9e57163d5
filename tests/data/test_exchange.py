"""Download through the real ccxt client from a local server that answers as Binance does."""

import builtins
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

from cryptoml.data.exchange import RetryConfig, check_markets, download_candles, exchange_now, open_exchange
from cryptoml.data.ingest import ingest_exchange
from cryptoml.data.lake import Lake
from cryptoml.data.schema import CANDLES, VENUE_CANDLES
from cryptoml.errors import ConfigError, DataError
from tests.data.exchange_server import HOUR, ExchangeServer, close_at, milliseconds, running_exchange

pytest.importorskip("ccxt")

QUICK = RetryConfig(max_attempts=4, backoff_seconds=0.01)
BTC = {"timeframe": "1h", "symbol": "BTCUSDT"}
SINCE = pd.Timestamp("2023-01-01", tz="UTC")
CLOSED_BARS = 4 * 24 + 10


@pytest.fixture
def server() -> Iterator[ExchangeServer]:
    with running_exchange() as server:
        yield server


@pytest.fixture
def exchange(server: ExchangeServer) -> Iterator[Any]:
    client = open_exchange("binance", server.options)
    yield client
    client.session.close()


def download(exchange: Any, since: pd.Timestamp = SINCE) -> list[pd.DataFrame]:
    check_markets(exchange, ["BTC/USDT"], "1h", QUICK)
    return list(download_candles(exchange, "BTC/USDT", "1h", since, exchange_now(exchange), retry=QUICK))


class TestDownload:
    def test_pages_cover_the_span_without_the_open_bar(self, exchange: Any) -> None:
        pages = download(exchange)
        assert [len(page) for page in pages] == [40, 40, 26]
        rows = pd.concat(pages, ignore_index=True)
        expected = pd.Series(pd.date_range(SINCE, periods=CLOSED_BARS, freq="h", unit="us"), name="timestamp")
        pd.testing.assert_series_equal(rows["timestamp"], expected)
        assert rows["close"].to_list() == [close_at(milliseconds("2023-01-01") + i * HOUR) for i in range(CLOSED_BARS)]
        assert (rows["volume"] == 12.5).all()

    @pytest.mark.parametrize("faults", [["429"], ["drop"], ["418", "drop", "429"]])
    def test_faults_are_retried(self, exchange: Any, server: ExchangeServer, faults: list[str]) -> None:
        server.faults = list(faults)
        assert sum(map(len, download(exchange))) == CLOSED_BARS
        assert not server.faults

    def test_gives_up_after_bounded_attempts(self, exchange: Any, server: ExchangeServer) -> None:
        server.faults = ["429"] * 10
        with pytest.raises(DataError, match=r"binance did not give candles of BTC/USDT in 4 attempts: .*429"):
            download(exchange)
        assert len(server.faults) == 6

    def test_an_error_of_the_exchange_is_not_retried(self, exchange: Any, server: ExchangeServer) -> None:
        server.faults = ["halt", "429"]
        with pytest.raises(DataError, match=r"binance refused to give candles of BTC/USDT: .*Illegal characters"):
            download(exchange)
        assert server.faults == ["429"]

    def test_steps_over_a_stretch_without_candles(self, exchange: Any, server: ExchangeServer) -> None:
        start = milliseconds("2023-01-02")
        server.holes = set(range(start, start + 50 * HOUR, HOUR))
        assert sum(map(len, download(exchange, SINCE - pd.Timedelta(days=90)))) == CLOSED_BARS - 50


class TestSettings:
    def test_unknown_exchange_names_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match=r"nearest: binance.*was 'binanse'"):
            open_exchange("binanse")

    def test_unknown_symbol_names_the_nearest(self, exchange: Any) -> None:
        with pytest.raises(ConfigError, match=r"'BTCUSDT' is not traded on binance \(nearest: BTC/USDT"):
            check_markets(exchange, ["BTCUSDT"], "1h", QUICK)

    @pytest.mark.parametrize("timeframe", ["7h", "1M"])
    def test_unknown_timeframe_lists_those_that_are(self, exchange: Any, timeframe: str) -> None:
        with pytest.raises(ConfigError, match=rf"must be one of .*1h, 2h.*, was '{timeframe}'"):
            check_markets(exchange, ["BTC/USDT"], timeframe, QUICK)

    def test_refused_connection_says_so(self, server: ExchangeServer) -> None:
        options = {**server.options, "urls": {"api": {"public": "http://127.0.0.1:9/api/v3"}}}
        with pytest.raises(DataError, match=r"binance did not load its markets in 2 attempts: .*refused"):
            check_markets(open_exchange("binance", options), ["BTC/USDT"], "1h", RetryConfig(max_attempts=2, backoff_seconds=0))

    def test_missing_ccxt_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        imported = builtins.__import__

        def without_ccxt(name: str, *arguments: Any, **keywords: Any) -> Any:
            if name == "ccxt":
                raise ImportError(name)
            return imported(name, *arguments, **keywords)

        monkeypatch.setattr(builtins, "__import__", without_ccxt)
        with pytest.raises(ConfigError, match=r"cryptoml\[exchange\]"):
            open_exchange("binance")


class TestIngest:
    def test_resumes_after_the_last_bar_and_before_the_first(self, tmp_path, exchange: Any, server: ExchangeServer) -> None:
        lake = Lake(tmp_path)
        middle = SINCE + pd.Timedelta(hours=30)
        first = ingest_exchange(lake, exchange, ["BTC/USDT"], "1h", middle, until=middle + pd.Timedelta(hours=20), retry=QUICK)
        assert first.rows_added == 20
        server.requests.clear()
        second = ingest_exchange(lake, exchange, ["BTC/USDT", "ETH/USDT"], "1h", SINCE, retry=QUICK)
        assert second.rows_added == 2 * CLOSED_BARS - 20
        assert server.requests[1] == milliseconds("2023-01-03 02:00")
        assert second.health.ok
        assert second.exit_code == 0
        assert len(lake.read(CANDLES, BTC)) == CLOSED_BARS
        server.now += 2 * HOUR
        assert ingest_exchange(lake, exchange, ["BTC/USDT"], "1h", SINCE, retry=QUICK).rows_added == 2
        assert ingest_exchange(lake, exchange, ["BTC/USDT"], "1h", SINCE, retry=QUICK).rows_added == 0

    def test_a_failed_symbol_leaves_its_pages_and_the_others_go_on(self, tmp_path, exchange: Any, server: ExchangeServer) -> None:
        lake, asked = Lake(tmp_path), server.klines

        def fail_second_page(since: int, limit: int) -> list[list[Any]]:
            if len(server.requests) == 1:
                server.faults = ["429"] * QUICK.max_attempts
            return asked(since, limit)

        server.klines = fail_second_page
        report = ingest_exchange(lake, exchange, ["BTC/USDT", "ETH/USDT"], "1h", SINCE, retry=QUICK)
        assert report.exit_code == 1
        assert [error.source for error in report.health.file_errors] == ["binance BTC/USDT 1h"]
        assert len(lake.read(CANDLES, BTC)) == 40
        assert len(lake.read(CANDLES, {**BTC, "symbol": "ETHUSDT"})) == CLOSED_BARS
        assert ingest_exchange(lake, exchange, ["BTC/USDT"], "1h", SINCE, retry=QUICK).rows_added == CLOSED_BARS - 40

    def test_gaps_across_pages_are_counted(self, tmp_path, exchange: Any, server: ExchangeServer) -> None:
        server.holes = {milliseconds("2023-01-02 16:00"), milliseconds("2023-01-02 17:00")}
        (health,) = ingest_exchange(Lake(tmp_path), exchange, ["BTC/USDT"], "1h", SINCE, retry=QUICK).health.symbols
        assert (health.gaps, health.missing_bars, health.rows_good) == (1, 2, CLOSED_BARS - 2)

    def test_other_venue_is_known_at_the_close(self, tmp_path, exchange: Any) -> None:
        lake = Lake(tmp_path)
        ingest_exchange(lake, exchange, ["BTC/USDT"], "1h", SINCE, venue="binance_spot", retry=QUICK)
        rows = lake.read(VENUE_CANDLES, {"venue": "binance_spot", **BTC})
        assert (rows["available_at"] - rows["timestamp"] == pd.Timedelta(hours=1)).all()

    def test_spot_is_not_mixed_into_the_perpetual_of_the_same_pair(self, tmp_path, exchange: Any) -> None:
        lake = Lake(tmp_path)
        lake.claim(CANDLES, BTC, "binance BTC/USDT:USDT")
        report = ingest_exchange(lake, exchange, ["BTC/USDT", "ETH/USDT"], "1h", SINCE, retry=QUICK)
        (error,) = report.health.file_errors
        assert "are those of binance BTC/USDT:USDT, not of binance BTC/USDT: keep the other market as a venue" in error.message
        assert (lake.symbols("1h"), report.exit_code) == (["ETHUSDT"], 1)
        assert ingest_exchange(lake, exchange, ["ETH/USDT"], "1h", SINCE, retry=QUICK).exit_code == 0

    def test_two_markets_of_one_name_are_refused(self, tmp_path, exchange: Any) -> None:
        with pytest.raises(ConfigError, match="'BTC/USDT' and 'BTC/USDT:USDT' are both BTCUSDT"):
            ingest_exchange(Lake(tmp_path), exchange, ["BTC/USDT", "BTC/USDT:USDT"], "1h", SINCE, retry=QUICK)
