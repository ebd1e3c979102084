"""Says where it runs. Inside a sandbox of Silo it sees this project, and neither your keys nor a network."""

import getpass
import os
import platform
import socket
import sys

secrets = os.path.expanduser("~/.ssh")
interfaces = [name for _, name in socket.if_nameindex()]

print(f"python      {platform.python_version()} in {sys.prefix}")
print(f"kernel      {platform.system()} {platform.release()}")
print(f"directory   {os.getcwd()}")
print(f"user        {getpass.getuser()} ({os.getuid()})")
print(f"~/.ssh      {'EXISTS' if os.path.exists(secrets) else 'does not exist'}")
print(f"interfaces  {' '.join(interfaces)}{'' if interfaces == ['lo'] else '  A NETWORK IS THERE'}")
