# loop.sh STAGE, in the checkout: continues the training until it is done, up to five times if it is killed.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=200000000:glibc.malloc.trim_threshold=4000000000
for i in 1 2 3 4 5; do
  JAX_PLATFORMS=cpu .venv/bin/python wip/scripts/train_base.py $1 >> build/train_$1.log 2>&1 && break
done
