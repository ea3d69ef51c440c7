from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer


def pubsub(url):
    return RedisPubSubChannelLayer(hosts=[url])


def core(url):
    return RedisChannelLayer(hosts=[url], capacity=1000)
