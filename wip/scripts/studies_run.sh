export GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=200000000:glibc.malloc.trim_threshold=4000000000
cd STUDIES
for s in "$@"; do
  PYTHONPATH=STUDIES ./.venv/bin/python -c "from kitlib.studies import runner; runner.main('palix', ('$s',), 2)" >> build/studies.log 2>&1 || echo "FAILED $s" >> build/studies.log
  echo "done $s $(date)" >> build/studies.log
done
