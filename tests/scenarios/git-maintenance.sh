#!/bin/bash
# git: many commits, branches and merges; repack, gc and prune while another program goes on committing.
set -eu
export HOME=/root GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@t GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@t
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=gc.auto GIT_CONFIG_VALUE_0=0
git init -q -b main repo && cd repo
cp -r /usr/share/perl5 lib
git add -A && git commit -q -m first
for i in $(seq 1 12); do
    file=$(find lib -type f | sort | sed -n "$((i * 7))p")
    printf 'line %d\n' "$i" >> "$file" && git rm -q "$(find lib -type f | sort | sed -n "$((i * 5 + 1))p")" && git commit -q -a -m "change $i"
    [ $((i % 4)) = 0 ] && git branch "side$i" HEAD~2
done
MARK loose

git repack -q -a -d && git pack-refs --all
MARK packed

(
    cd .. && git clone -q --no-hardlinks repo clone && cd clone
    for i in $(seq 1 10); do echo "$i" >> "from-clone" && git add from-clone && git commit -q -m "clone $i" && git push -q origin HEAD:refs/heads/from-clone; done
) &
git checkout -q side8 && echo side > side && git add side && git commit -q -m side
git checkout -q main && git merge -q -m merge side8
git gc -q
wait
git reset -q --hard HEAD~3 && git reflog expire --expire=now --all && git gc -q --prune=now --aggressive
git worktree add -q ../worktree from-clone
git fsck --strict --no-progress && git -C ../clone fsck --strict --no-progress
MARK collected
git clone -q ../repo ../linked && git branch -q -D side4 side8 side12 && git prune
