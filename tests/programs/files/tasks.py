import asyncio

async def answer(reader, writer):
    writer.write((await reader.readline()).upper())
    await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async def ask(number):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"question %d\n" % number)
        said = await reader.readline()
        writer.close()
        return said
    print(await asyncio.gather(*(ask(number) for number in range(3))))
    process = await asyncio.create_subprocess_exec("wc", "-l", "words.txt", stdout=-1)
    print((await process.communicate())[0], process.returncode)

asyncio.run(main())
