"""Turns our description of a dashboard into Grafana's JSON, with Grafana's own types."""

from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef

from deploy.grafana.panels import Page, Panel

SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
WIDTH, HEIGHT = 12, 8  # of 24 columns


def graph(panel: Panel) -> TimeSeries:
    """Return a panel as a graph."""
    legend = VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    built = TimeSeries().title(panel.title).unit(panel.unit).datasource(SOURCE).legend(legend)
    built = built.span(WIDTH).height(HEIGHT).fill_opacity(10)
    if panel.description:
        built = built.description(panel.description)
    for number, query in enumerate(panel.queries):
        built = built.with_target(
            Dataquery().expr(query.expression).legend_format(query.legend).ref_id(chr(ord("A") + number))
        )
    return built


def written(page: Page) -> str:
    """Return a dashboard as a file for Grafana."""
    built = Dashboard(page.title).uid(f"order-platform-{page.name}").tags(["order-platform"]).editable()
    built = built.time("now-1h", "now").refresh("30s").timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR)
    for title, panels in page.rows.items():
        built = built.with_row(Row(title))
        for panel in panels:
            built = built.with_panel(graph(panel))
    return str(JSONEncoder(sort_keys=True, indent=2).encode(built.build())) + "\n"
