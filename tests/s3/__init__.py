"""Real S3 for tests: servers (moto, Ceph), and a proxy that counts, delays and injects faults.

Nothing here is a mock: every byte goes over HTTP, as with S3 in a cloud.
"""
