"""Explores a daemon as grpcurl would: lists every service by reflection, and calls some with no generated code.

usage: explore.py SOCKET; prints one line a service, then what the calls answered. Needs grpcio and grpcio-reflection.
"""
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel("unix://" + sys.argv[1], options=[("grpc.default_authority", "localhost")])
database = ProtoReflectionDescriptorDatabase(channel)
pool = DescriptorPool(database)


def call(service, method, fields=None, namespace=None):
    """Calls a unary method by its descriptor."""
    described = pool.FindServiceByName(service).FindMethodByName(method)
    request = GetMessageClass(described.input_type)(**(fields or {}))
    invoke = channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(described.output_type).FromString,
    )
    metadata = [("containerd-namespace", namespace)] if namespace else []
    return invoke(request, metadata=metadata, timeout=10)


for service in sorted(database.get_services()):
    methods = pool.FindServiceByName(service).methods
    print(f"service {service} {len(methods)}")

print("version", call("containerd.services.version.v1.Version", "Version").version)
print("health", call("grpc.health.v1.Health", "Check").status)
images = call("containerd.services.images.v1.Images", "List", namespace="default").images
print("images", " ".join(image.name for image in images))
containers = call("crated.engine.v1.Engine", "List", {"all": True}, namespace="default").containers
print("containers", " ".join(container.name for container in containers))
try:
    call("containerd.services.containers.v1.Containers", "List")
except grpc.RpcError as error:
    print("refused", error.code().name, error.details())
