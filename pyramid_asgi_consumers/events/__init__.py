"""Server-Sent Events (HTML Living Standard, section 9.2)."""
