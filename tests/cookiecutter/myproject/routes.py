def includeme(config):
    config.add_route("login", "/login")
    config.add_route("messages", "/messages/{room}")
