#!/usr/bin/env bash
# Makes the files beside it with the real tools: git, gpg and ssh-keygen. The private keys are thrown away.
set -euo pipefail
cd "$(dirname "$0")"
out=$PWD
work=$(mktemp -d)
trap 'gpgconf --homedir "$work/gpg" --kill all; rm -rf "$work"' EXIT
export GNUPGHOME=$work/gpg GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME="Ann Example" GIT_AUTHOR_EMAIL=ann@example.com GIT_COMMITTER_NAME="Ann Example" GIT_COMMITTER_EMAIL=ann@example.com
mkdir -m 700 "$GNUPGHOME"
gpg --batch --quiet --passphrase '' --quick-generate-key 'Ann Example <ann@example.com>' ed25519 sign never
gpg --armor --export > "$out/keys.asc"
ssh-keygen -q -t ed25519 -N '' -C bob@example.com -f "$work/bob"
echo "bob@example.com namespaces=\"git\" $(cut -d' ' -f1,2 "$work/bob.pub")" > "$out/allowed_signers"
git init -q "$work/repo"
cd "$work/repo"
echo a > a
git add a
git commit -q -S -m 'signed with OpenPGP' -m 'with a body'
git cat-file commit HEAD > "$out/pgp.commit"
git tag -s -m 'signed with OpenPGP' v1
git cat-file tag v1 > "$out/pgp.tag"
git config gpg.format ssh
git config user.signingkey "$work/bob"
git commit -q -S --allow-empty -m 'signed with SSH'
git cat-file commit HEAD > "$out/ssh.commit"
git tag -s -m 'signed with SSH' v2
git cat-file tag v2 > "$out/ssh.tag"
