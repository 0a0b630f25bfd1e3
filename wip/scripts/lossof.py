import numpy as np, sys
h=dict(np.load(sys.argv[1])); n=int(sys.argv[2]) if len(sys.argv)>2 else 50
print({k[:-5]: (round(float(np.mean(v[:n])),3), round(float(np.mean(v[-n:])),3)) for k,v in h.items() if k.endswith('/loss')})
