#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "quickjs.h"
static JSValue print(JSContext*c,JSValueConst t,int n,JSValueConst*v){for(int i=0;i<n;i++){const char*s=JS_ToCString(c,v[i]);if(!s)return JS_EXCEPTION;printf("%s%s",i?" ":"",s);JS_FreeCString(c,s);}printf("\n");return JS_UNDEFINED;}
int main(int argc,char**argv){
  FILE*f=fopen(argv[1],"r"); if(!f)return 2; char*b=malloc(1<<20); size_t n=fread(b,1,(1<<20)-1,f); b[n]=0; fclose(f);
  JSRuntime*r=JS_NewRuntime(); JSContext*c=JS_NewContext(r);
  JSValue g=JS_GetGlobalObject(c); JS_SetPropertyStr(c,g,"print",JS_NewCFunction(c,print,"print",1)); JS_FreeValue(c,g);
  JSValue v=JS_Eval(c,b,n,argv[1],JS_EVAL_TYPE_GLOBAL);
  if(JS_IsException(v)){JSValue e=JS_GetException(c);const char*s=JS_ToCString(c,e);printf("exception: %s\n",s);return 3;}
  JS_FreeValue(c,v); JS_FreeContext(c); JS_FreeRuntime(r); return 0; }
