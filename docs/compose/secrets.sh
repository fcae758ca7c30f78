#!/bin/sh
# Makes what docs/compose/secured.yml gives to the nodes: a directory for each of five, with
# certificates and keys, the key of gossip, and the password of the user "starling".
#
#   docs/compose/secrets.sh DIRECTORY PASSWORD
#
# The directory must not be there yet. Needs openssl, and htpasswd (of Apache) or the bcrypt hash of the
# password in STARLING_PASSWORD_HASH. Run it as root, or give DIRECTORY/starling-* to user 65532
# afterwards, as which the containers run.
set -eu
umask 077
dir=$1 password=$2
hash=${STARLING_PASSWORD_HASH:-$(htpasswd -nbBC 10 starling "$password" | cut -d: -f2)}
mkdir "$dir"
cd "$dir"

# authority NAME: the files NAME-ca.pem and NAME-ca-key.pem. Keep the latter elsewhere.
authority() {
  openssl ecparam -name prime256v1 -genkey -noout -out "$1-ca-key.pem"
  openssl req -x509 -new -key "$1-ca-key.pem" -days 3650 -subj "/CN=starling $1" \
    -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign' -out "$1-ca.pem"
}

# certificate AUTHORITY FILE USAGES NAMES: the files FILE.pem and FILE-key.pem.
certificate() {
  openssl ecparam -name prime256v1 -genkey -noout -out "$2-key.pem"
  openssl req -new -key "$2-key.pem" -subj "/CN=starling" -out "$2.csr"
  printf 'subjectAltName=%s\nextendedKeyUsage=%s\nkeyUsage=critical,digitalSignature\n' "$4" "$3" > "$2.ext"
  openssl x509 -req -in "$2.csr" -CA "$1-ca.pem" -CAkey "$1-ca-key.pem" -CAcreateserial -days 365 -extfile "$2.ext" -out "$2.pem" 2> /dev/null
  rm "$2.csr" "$2.ext"
}

# One authority for nodes alone: whoever has a certificate of it is a node. Another one for what
# clients see.
authority nodes
authority front
gossip=$(openssl rand -base64 32)
for n in 1 2 3 4 5; do
  node=starling-$n
  mkdir -p "$node/keyring"
  certificate nodes "$node/node" serverAuth,clientAuth DNS:starling.internal
  certificate front "$node/web" serverAuth "DNS:$node,DNS:localhost,IP:127.0.0.1"
  cp nodes-ca.pem front-ca.pem "$node"
  printf '["%s"]\n' "$gossip" > "$node/keyring/keyring.json"
  cat > "$node/web.yml" << END
tls_server_config:
  cert_file: web.pem
  key_file: web-key.pem
basic_auth_users:
  starling: $hash
END
  # What commands in the container show the node: they ask it at 127.0.0.1.
  printf '%s' "$password" > "$node/password"
  cat > "$node/client.yml" << END
basic_auth:
  username: starling
  password_file: password
tls_config:
  ca_file: front-ca.pem
END
done
chmod 644 nodes-ca.pem front-ca.pem
[ "$(id -u)" != 0 ] || { chmod 711 .; chown -R 65532:65532 starling-*; }
