"""Report of an evaluation: one HTML file that needs no network and no script."""

from dist_calo.physics.report.page import Drawings as Drawings
from dist_calo.physics.report.page import draw_bins as draw_bins
from dist_calo.physics.report.page import draw_chapters as draw_chapters
from dist_calo.physics.report.page import report_html as report_html
from dist_calo.physics.report.page import write_report as write_report
