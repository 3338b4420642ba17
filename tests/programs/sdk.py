"""One library a call: prints what the model said."""

import asyncio
import sys

ASKED = {"model": "m", "messages": [{"role": "user", "content": "say hello"}]}


def openai():
    import openai

    client = openai.OpenAI(api_key="none")
    print(client.chat.completions.create(**ASKED).choices[0].message.content)
    parts = client.chat.completions.create(stream=True, **ASKED)
    print("".join(part.choices[0].delta.content or "" for part in parts))

    async def later():
        client = openai.AsyncOpenAI(api_key="none")
        print((await client.chat.completions.create(**ASKED)).choices[0].message.content)

    asyncio.run(later())


def anthropic():
    import anthropic

    client = anthropic.Anthropic(api_key="none")
    print(client.messages.create(max_tokens=9, **ASKED).content[0].text)
    with client.messages.stream(max_tokens=9, **ASKED) as stream:
        print("".join(stream.text_stream))


def huggingface_hub():
    from huggingface_hub import file_exists

    print(file_exists("a/b", "c"))


def botocore():
    import botocore.session

    session = botocore.session.get_session()
    session.set_credentials("none", "none")
    client = session.create_client("s3", endpoint_url="https://api.example.org", region_name="eu")
    print(client.head_bucket(Bucket="b")["ResponseMetadata"]["HTTPStatusCode"])


globals()[sys.argv[1]]()
