"""The sections of the page, one a file (`speechssl.report.page.section.Section`)."""
