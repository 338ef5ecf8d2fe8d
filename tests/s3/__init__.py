"""Real S3 for tests: servers in processes of their own (moto, Ceph) and a proxy that counts, delays and spoils.

Nothing here is a mock: every byte goes over HTTP, as with the S3 of a cloud.
"""
