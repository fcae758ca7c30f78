# `make image` stages a static binary and an empty data directory in bin/image and
# then builds this. Nothing is downloaded: the image holds these two and no shell.
FROM scratch

COPY bin/image/starling /bin/starling
# A new volume takes over the owner of the directory it is mounted on, so the
# directory has to be in the image for a user without privileges to write to it.
COPY --chown=65532:65532 bin/image/data /data

USER 65532:65532
VOLUME /data
# HTTP, traffic between nodes, gossip (UDP too).
EXPOSE 9080 9081 7946 7946/udp

ENV STARLING_STORAGE_TSDB_PATH=/data
ENTRYPOINT ["/bin/starling"]
