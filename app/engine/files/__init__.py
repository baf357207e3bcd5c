"""Tables as files, CSV or JSON Lines: out as they are, and in again without a loss, however many rows there are."""
