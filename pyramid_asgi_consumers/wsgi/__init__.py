"""A WSGI server side (PEP 3333) over ASGI, which knows nothing of Pyramid."""
