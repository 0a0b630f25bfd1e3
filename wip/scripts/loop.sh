# restarts the training until it is done
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=200000000:glibc.malloc.trim_threshold=4000000000
cd RUN
until [ -f build/palix_s/$1.safetensors ]; do PYTHONPATH=RUN JAX_PLATFORMS=cpu .venv/bin/python wip/scripts/train_base.py $1 >> wip/scripts/train_$1.log 2>&1; echo "exit $? $(date)" >> wip/scripts/train_$1.log; sleep 2; done
