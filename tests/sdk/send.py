"""Sends one event with Meta's official Python SDK, as a shop's server would: send.py sync|async BASE_URL PIXEL KEY EVENT_ID

Every name resolves to 127.0.0.1; nothing of the SDK itself is changed but its base URL.
"""

import asyncio
import socket
import sys
import time

from facebook_business.adobjects.serverside.action_source import ActionSource
from facebook_business.adobjects.serverside.custom_data import CustomData
from facebook_business.adobjects.serverside.event import Event
from facebook_business.adobjects.serverside.event_request import EventRequest
from facebook_business.adobjects.serverside.event_request_async import EventRequestAsync
from facebook_business.adobjects.serverside.user_data import UserData
from facebook_business.api import FacebookAdsApi
from facebook_business.session import FacebookSession

how, base_url, pixel, key, event_id = sys.argv[1:]

resolve = socket.getaddrinfo
socket.getaddrinfo = lambda host, *args, **kwargs: resolve("127.0.0.1", *args, **kwargs)

FacebookSession.GRAPH = base_url
FacebookAdsApi.init(access_token=key, crash_log=False)
event = Event(
    event_name="Purchase",
    event_time=int(time.time()),
    event_id=event_id,
    event_source_url="https://shop.example/thanks",
    action_source=ActionSource.WEBSITE,
    user_data=UserData(email="John_Smith@gmail.com", client_user_agent="Mozilla/5.0", fbp="fb.1.1677024568192.220088425"),
    custom_data=CustomData(value=12.5, currency="EUR"),
)
if how == "sync":
    response = EventRequest(pixel_id=pixel, events=[event]).execute()
else:
    response = asyncio.run(EventRequestAsync(pixel_id=pixel, events=[event]).execute())
print(response.events_received)
