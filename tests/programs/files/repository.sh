set -e
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
export GIT_AUTHOR_DATE='1000000000 +0000' GIT_COMMITTER_DATE='1000000000 +0000' GIT_CONFIG_NOSYSTEM=1
git init -q -b main repository
cd repository
cp ../words.txt .
git add words.txt
git commit -q -m 'first'
git checkout -q -b side
sed -i s/pear/PEAR/ words.txt
git commit -q -a -m 'second'
git checkout -q main
git merge -q --no-ff -m 'third' side
git log --format='%h %s' --stat
git clone -q . ../copy
git -C ../copy status --short --branch
