from channels.layers import InMemoryChannelLayer


def memory(url):
    return InMemoryChannelLayer(capacity=1000)
