"""The verdict: plain data that the resolver returns and every formatter shows."""
